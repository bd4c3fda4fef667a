"""Work over shards on a Ray cluster; the only folder that knows Ray. Each job is a pure function of a shard."""
