"""Tables of tasks and their registration; gin files import these modules."""
