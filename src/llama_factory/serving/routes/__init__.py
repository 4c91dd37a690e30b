"""The HTTP routes, one subject a file: each builds an `APIRouter` for a gateway."""
