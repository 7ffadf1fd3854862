"""The load: one process, one epoll, both ends of every session. It costs as little as Python can."""
