"""What `meltano_dags.py` is made of. It imports nothing of the project, and only `shell` needs Airflow."""
