"""`python -m sshoq` is the client, for machines where the script is not on the path."""

from sshoq.quick_imports import quicken_imports

if __name__ == "__main__":
    quicken_imports()
    from sshoq.client.main import main

    main()
