"""Time the same work for xpmlp and for its peers; each is written as its own users would write it well."""
