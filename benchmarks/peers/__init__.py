"""What the service is measured beside, each as its own users would write it well."""
