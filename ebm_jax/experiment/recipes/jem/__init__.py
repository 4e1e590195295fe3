"""A classifier that is an energy-based model of its images: JEM."""
