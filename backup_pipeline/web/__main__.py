"""`python -m backup_pipeline.web`: Dagster's webserver behind the guard."""

from backup_pipeline.system.process_end import run_and_leave
from backup_pipeline.web.serve import main

if __name__ == "__main__":
    run_and_leave(main)
