"""Memory twins, fault plans, disk builders and contract suites. The product never imports this (a lint rule)."""
