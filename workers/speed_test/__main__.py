"""`python -m workers.speed_test`, the same as `saccade bench`."""

from workers.speed_test.bench import main

raise SystemExit(main())
