"""More than the balancer can take: floods, slow clients, no descriptors left."""
