"""What people look at: one execution as an HTML file, and a page of the service."""
