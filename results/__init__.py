"""What a sweep leaves: experiments on disk or in a bucket, read, checked and kept whole."""
