"""The status page: the daemon's documents as HTML, for people.

What may live here: addresses, forms, and how values are rendered. What may not: facts of its own. A
page shows what `web.documents` says, so that page, API and commands agree. Everything is rendered
here and works without a script; `static/page.js` only asks again every few seconds and updates what
has changed.
"""
