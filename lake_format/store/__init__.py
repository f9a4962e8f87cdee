"""Where bytes live: one thin interface over local disk, memory and object stores."""
