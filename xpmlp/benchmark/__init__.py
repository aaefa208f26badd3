"""The same work for xpmlp and for its peers, each as its own users would write it well, timed fairly."""
