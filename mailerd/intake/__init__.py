"""Mail that comes back, received: a listener, Maildirs, IMAP; stored, read, and its reports applied."""
