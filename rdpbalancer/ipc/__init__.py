"""Between the processes of the service: messages and file descriptors, over private socket pairs."""
