"""Piano: the Publisher API, the Reports API and the webhooks of the invented publisher."""
