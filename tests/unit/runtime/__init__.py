"""The parts that the processes are put together from."""
