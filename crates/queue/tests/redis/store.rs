//! What is the Redis store's own.
