-- Kept free. Whoever adds migration 0010 deletes this file.
SELECT 1;
