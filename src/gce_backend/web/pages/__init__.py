"""The status page: the daemon's documents as HTML, for people.

What may live here: addresses, forms, and how values are drawn. What may not: facts of its own; a
page shows what the documents beside this package say, so that page, API and commands agree.
Everything is drawn here and works without a script; `static/page.js` only asks again every few
seconds and changes what has changed.
"""
