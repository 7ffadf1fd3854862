"""Coverage of each module by its own test files alone: `make coverage`.

A line that only an end-to-end test runs is covered, but when that test fails it says "something is broken".
What a module promises is to be tested where one looks for it.
"""
