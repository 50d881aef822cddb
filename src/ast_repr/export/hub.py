"""Upload of an exported model to the Hugging Face hub."""

from pathlib import Path


def push(files: list[Path], repo: str) -> str:
    """Upload files of one folder to the repository "user/name", and return its address.

    The repository is created if necessary.

    Raises:
        RuntimeError: no network, not logged in, or refused by the hub.
    """
    # Slow to import, and needed by few.
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=files[0].parent,
            allow_patterns=[path.name for path in files],
            commit_message="Upload a model exported by ast_repr",
        )
    except Exception as error:  # of the hub, of its HTTP library, of the file system
        raise RuntimeError(
            f"{repo}: not uploaded ({error}); check the name and the network, "
            "and log in by: hf auth login"
        ) from error
    return str(address)
