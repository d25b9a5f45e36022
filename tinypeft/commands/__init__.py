"""What the commands of `tinypeft` do, one file each."""
