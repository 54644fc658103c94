"""What the modules of celery and kombu share."""
