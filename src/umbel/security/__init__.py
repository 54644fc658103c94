"""Signed messages: the serializer ``auth``. Needs ``cryptography``; nothing is imported before it is used."""
