"""The plugins of the corpus are no tests, and one of them cannot be imported on purpose."""

collect_ignore = ["corpus"]
