"""Simulated servers, clients and agents against each other: the tools have to be right themselves."""
