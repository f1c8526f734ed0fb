"""The commands of `saccade`: parse, call, print."""
