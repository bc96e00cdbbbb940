"""The job database: tables, migrations, jobs, events and webhook deliveries."""
