"""What comes back: bounces, complaints and automatic replies. `reader.read` turns the octets of a mail into a `Report`."""
