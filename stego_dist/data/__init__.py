"""Images to shards, and shards to tensors. Anything that knows the shard format lives here."""
