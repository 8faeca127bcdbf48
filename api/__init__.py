"""The API node: HTTP in, session log out. Stateless: any node serves any request.

It must not know how tokens are made: it meets the inference workers only in ``replay``.
"""
