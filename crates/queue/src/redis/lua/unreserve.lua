-- ARGV: 2 job, 3 fence, 4 provider. Gives back what is put aside.
give_back(entry_of(ARGV[2], ARGV[3], ARGV[4]))
return 1
