"""Bytes ⇄ frames (sans-I/O), and links over unix and TCP sockets."""
