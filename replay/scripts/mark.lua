#!lua flags=allow-oom
-- Notes that a stop came under this name, so that a POST which is being validated opens nothing.
--
-- KEYS  the name's stop marker
redis.call('SET', KEYS[1], string.format('%.3f', exact_ms()), 'PX', int(STOPPED_MS))
return 1
