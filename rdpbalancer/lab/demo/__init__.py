"""The demonstration: the real balancer, simulated terminal servers and users, on the loopback interface.

`script.run_script` is the fixed script with a verdict, `live.run_live` the show.
"""
