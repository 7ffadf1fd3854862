"""Moving bytes: the pump, the process around it, and the router's side of both."""
