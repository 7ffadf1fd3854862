"""The control protocol: any request has an answer; pages are the whole list, each row once."""
