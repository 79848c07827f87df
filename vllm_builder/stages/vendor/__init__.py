"""External sources: what a release's CMake code fetches, locked and put into the tree."""
