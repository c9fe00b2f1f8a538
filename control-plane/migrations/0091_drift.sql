alter table definitions
  -- Wordings that somebody looked at and refused: they are never approved by themselves.
  add column rejected_digests text[] not null default '{}',
  -- How far what is seen is from what is approved; null where nothing is, or nothing differs.
  add column drift_class text check (drift_class in ('same', 'minor', 'review', 'quarantine'));

-- Drift up to this class is approved by itself.
alter table servers
  add column auto_approval text not null default 'none' check (auto_approval in ('none', 'minor', 'review'));
