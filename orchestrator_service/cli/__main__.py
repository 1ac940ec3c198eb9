"""`python -m orchestrator_service.cli` is `codehornets`, where the program itself is not on the PATH."""

from orchestrator_service.cli import main

if __name__ == "__main__":
    main()
