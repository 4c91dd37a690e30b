"""Where rows come from: files and folders, named datasets, hubs, the inbox."""
