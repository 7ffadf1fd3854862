"""What the tests share: fakes of our own interfaces, real processes, deadlines."""
