"""The fast tests with every interpreter from 3.11 to 3.14 that this machine has, or can install."""
