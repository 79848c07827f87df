"""A wheel index on a folder or an object store: what pip and uv resolve from, and a page for people.

``layout`` says where things lie, ``model`` what the manifest holds, ``storage`` where it can lie, ``manifest`` how
it changes, ``pages`` what is made of it.
"""
