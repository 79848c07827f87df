"""Servers that take uploads (devpi, pypiserver, Nexus, Artifactory, GitLab and what else speaks the protocol).

``address`` says where one is, ``credentials`` who asks, ``simple`` what it has; ``sending`` hands a wheel over.
"""
