"""What every SQL engine's connector is made of: the one contract between an engine and a table.

An engine brings its predicates, its types and its way to plug a source in; the rest is the same for all of them and
lies here. A connector

- follows a table through its versions, one version a statement (``following``);
- shows the table's schema in the engine's own types (``types``) and hands arrays over in them;
- translates the engine's predicates to :mod:`lake_engines.predicate`, with the engine's rules, accepts those that
  bind, and leaves the others to the engine: what is accepted is answered exactly (``requests``);
- answers a neighbour request with rows in distance order, as many as are pulled (``nearest``), so that whatever the
  engine filters afterwards it gets its k rows;
- tells an observer what reached the table, which is how tests see what was pushed down (``following.Pushdown``);
- finds the tables of a folder by name (:func:`lake_format.list_tables`).

No module here imports an engine, and connectors import no other connector.
"""
