"""`python -m workers.benchmark`, the same as `saccade bench`."""

from workers.benchmark.bench import main

raise SystemExit(main())
