"""`python src/web_demo.py --server_name 0.0.0.0`: the page."""

from llama_factory.cli import front_doors

if __name__ == "__main__":
    front_doors.web_demo()
