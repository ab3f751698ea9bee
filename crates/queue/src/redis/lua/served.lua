-- ARGV: 2 class. Answers whether a worker that is there can do such jobs.
return is_served(ARGV[2]) and 1 or 0
