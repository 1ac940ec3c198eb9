"""Wake-up sources. Each one does one thing: it tells the queue where to look, and rings the bell."""
